"""The examples of the manual pages: what it is for -> the lines to type, or to write into a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vmguard.cli.manual.roff import Page

Examples = Mapping[str, Sequence[str]]

VMGUARD: Examples = {
    "Guard a libvirt host, with the VMs that run on it already:": (
        "vmguard doctor --fix identity",
        "vmguard doctor",
        "vmguard enable libvirt",
        "vmguard adopt --all",
    ),
    "Guard the VMs of a Proxmox VE node: first see what it would do:": (
        "vmguard enable proxmox --all --dry-run",
        "vmguard enable proxmox --all",
        "vmguard audit",
    ),
    "Why does this VM hang, why was it killed, and who has its disk?": (
        "vmguard check web",
        "vmguard history web",
        "vmguard who /srv/vm/web.qcow2",
    ),
    "An incident as a picture, of this host, and of several by the reports that were made on each of them:": (
        "vmguard history --since 2h --html incident.html",
        "vmguard report --merge hyp-a.tar.gz hyp-b.tar.gz --html incident.html",
    ),
    "What would happen in an outage, here and with another lease?": ("vmguard timing", "vmguard timing --lease 30"),
    "It is known, and settled: fences until now are shown no more, and a check does not warn for a month.": (
        "vmguard history --acknowledge",
        "vmguard doctor --mute mount.lease --for 30d",
    ),
    "Half an hour in which nothing is frozen or fenced:": (
        "vmguard maintenance --for 30m --reason 'the NAS moves to other hardware'",
        "vmguard arm",
    ),
    "Which files would a start lock?": ("vmguard plan --domain-xml web.xml", "vmguard plan --name web"),
    "Metrics, for node_exporter or served:": (
        "vmguard metrics --output /var/lib/prometheus/node-exporter/vmguard.prom --every 15s",
        "vmguard metrics --listen 9797",
    ),
}
YAML: Examples = {
    "Start VMs that a fence has killed again by themselves, and give up on a locked disk at once:": (
        "watch:",
        "  after_fence: restart",
        "hook:",
        "  wait: 0s",
    ),
    "Tell the admins by mail, and a pager of what a human must look at:": (
        "notify:",
        "  targets:",
        "    admins: {type: mail, to: admins@example.org, server: mail.example.org}",
        "    pager:",
        "      type: webhook",
        "      level: error",
        "      url_file: /etc/vmguard/secrets/pager-url",
    ),
    "See for some days what would be done:": ("watch:", "  log_only: yes"),
}
HOOKS: Examples = {
    "Install libvirt's hook, see it, and take it away:": (
        "vmguard enable libvirt",
        "vmguard hook-script libvirt",
        "vmguard disable libvirt",
    ),
}
SECURITY: Examples = {
    "Keep readers out of the images, and see who is let in:": (
        "chmod 0660 /srv/vm/*.qcow2 && chmod 0750 /srv/vm",
        "vmguard doctor /srv/vm",
    ),
}


def add_to(page: Page, examples: Examples) -> None:
    """Append the section to a page."""
    page.section("examples")
    for what, lines in examples.items():
        page.paragraph(what)
        page.literal(lines)
