"""``vmguard audit``: what the guard of a Proxmox cluster misses, seen from one of its nodes or through its API."""

from __future__ import annotations

import argparse

from vmguard.adapters.proxmox import api as proxmox_api
from vmguard.adapters.proxmox import cluster_view, snippets
from vmguard.cli.output import Output
from vmguard.config import load
from vmguard.core.reports.pve_audit import HOOK, AuditFinding, ClusterView, audit
from vmguard.core.reports.status import Status, worst
from vmguard.core.sources.pve_config import parse_config
from vmguard.core.sources.pve_storage import parse_storages
from vmguard.errors import BadInput, VmguardError

_SHARES_TIMEOUT_S = 10.0
_API_TIMEOUT_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--api", metavar="HOST[:PORT]", help="ask a cluster's API; else this node's own files")
    parser.add_argument("--token", metavar="USER@REALM!NAME", help="with --api: the token, with PVEAuditor on /")
    parser.add_argument("--token-file", metavar="FILE", help="with --api: a file with the token's secret")
    parser.add_argument("--ca-file", metavar="FILE", help="with --api: the cluster's authority, pve-root-ca.pem")


def run(args: argparse.Namespace, out: Output) -> int:
    config = load(args.config)
    if args.api:
        view = _through_api(args)
    elif args.token or args.token_file or args.ca_file:
        raise BadInput("--token, --token-file and --ca-file belong to --api HOST")
    else:
        folder = config.owner_record.directory if config.owner_record.enabled else ""
        hook = snippets.place(config.proxmox.snippets_dir)
        view = cluster_view.view(config.proxmox.config_dir, folder, hook, args.timeout or _SHARES_TIMEOUT_S)
    findings = audit(view)
    status = worst([finding.status for finding in findings]) if findings else Status.OK
    if args.json:
        out.json(_as_json(view, findings, status, args.api or ""))
    else:
        _print(view, findings, out)
    return status


def _through_api(args: argparse.Namespace) -> ClusterView:
    """Ask a cluster's API. Raises VmguardError."""
    if not args.token or not args.token_file:
        raise BadInput("--api needs --token and --token-file", "pveum user token add USER@REALM NAME --privsep 1")
    try:
        with open(args.token_file, encoding="ascii") as stream:
            secret = stream.read(4096).strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise BadInput(f"cannot read the token's secret from {args.token_file!r}: {problem}") from problem
    access = proxmox_api.Access(args.api, args.token, secret, args.ca_file or "")
    answer = proxmox_api.ask(access, args.timeout or _API_TIMEOUT_S)
    view = ClusterView(answer.nodes, parse_storages(answer.storage_cfg.encode(errors="surrogateescape")))
    for vmid, node, text in answer.vms:
        try:
            view.vms.append((vmid, node, parse_config(text.encode(errors="surrogateescape"), vmid)))
        except VmguardError as problem:
            view.problems.append(AuditFinding("unknown", Status.UNKNOWN, problem.message, problem.hint, vmid, node))
    for vmid, node, why in answer.missing:
        text = f"VM {vmid} on {node} could not be looked at: {why}"
        view.problems.append(AuditFinding("unknown", Status.UNKNOWN, text, "", vmid, node))
    if not answer.vms and not answer.missing:
        text = f"the token {args.token} sees no VM at all: the API leaves out, without a word, what it has no right to"
        hint = f"pveum acl modify / --tokens '{args.token}' --roles PVEAuditor"
        view.problems.append(AuditFinding("unknown", Status.UNKNOWN, text, hint))
    return view


def _as_json(view: ClusterView, findings: list[AuditFinding], status: Status, api: str) -> dict[str, object]:
    vms = [
        {"vmid": vmid, "node": node, "name": config.name, "enrolled": config.options.get("hookscript", "") == HOOK}
        for vmid, node, config in view.vms
    ]
    return {
        "schema": 1,
        "status": status.name,
        "seen_from": api or view.here,
        "nodes": view.nodes,
        "vms": vms,
        "findings": [finding.as_json() for finding in findings],
    }


def _print(view: ClusterView, findings: list[AuditFinding], out: Output) -> None:
    for finding in findings:
        out.status(finding.status.name, finding.text)
        if finding.todo:
            out.line(f"      do now: {finding.todo}")
    enrolled = sum(config.options.get("hookscript", "") == HOOK for _, _, config in view.vms)
    words = f"{len(view.vms)} VMs on {len(view.nodes)} nodes, {enrolled} enrolled"
    if not findings:
        out.status("OK", f"{words}, nothing to complain of")
    else:
        out.line(f"{words}, {len(findings)} findings")
