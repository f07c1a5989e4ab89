"""One message by each kind of target, against real servers: what arrives, what is said when it does not, no secret."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.receivers import Certificate, MailReceiver, Silent, WebReceiver, free_port, secret_file
from vmguard.adapters.messages import secret, services, smtp
from vmguard.adapters.messages.sending import send
from vmguard.config.notify import Target, TargetType, Tls
from vmguard.core.notices.event import make
from vmguard.core.notices.message import Message, compose
from vmguard.core.watchdog.events import Level
from vmguard.errors import BadInput, VmguardError

pytestmark = pytest.mark.process

WORD = "correct-horse-battery"
#: names that break out of a header, a line, a document, if they can
HOSTILE = 'web\r\nBcc: thief@example.org\r\n\r\nHi\x1b[31m\u2028"}, {"code": "x"'


def frozen(name: str = "web") -> Message:
    text = f"VM {name!r} is frozen: nas has not answered for 8 s"
    event = make("2026-11-28T09:00:00Z", "vm.freeze", Level.WARNING, text, {"vm": "libvirt-1", "name": name}, "boot")
    return compose([event], "hyp-a.example.org")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.make(tmp_path_factory.mktemp("certificate"))


def mail_target(certificate: Certificate, port: int, **other: Any) -> dict[str, Any]:
    known: dict[str, Any] = {"server": f"localhost:{port}", "to": ("admins@example.org",), "ca": str(certificate.path)}
    return Target(type=TargetType.MAIL, **{"timeout": 5.0, **known, **other}).as_json()


def web_target(url: str = "", **other: Any) -> dict[str, Any]:
    return Target(type=TargetType.WEBHOOK, url=url, **{"timeout": 2.0, **other}).as_json()


def why(message: Message, wanted: dict[str, Any], **options: Any) -> str:
    """Send what cannot be sent; return the error, and see that it has no secret."""
    with pytest.raises(VmguardError) as caught:
        send(message, wanted, **options)
    assert WORD not in caught.value.message + caught.value.hint
    assert caught.value.message.isprintable()
    return caught.value.message


# -- mail -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [Tls.STARTTLS, Tls.TLS])
def test_a_mail_arrives_encrypted_and_with_a_login(certificate: Certificate, tmp_path: Path, tls: Tls) -> None:
    password = secret_file(tmp_path / "password", WORD)
    with MailReceiver(certificate, "me", WORD, implicit=tls is Tls.TLS) as server:
        wanted = mail_target(certificate, server.port, tls=tls, user="me", password_file=str(password))
        assert send(frozen(), wanted) == server.answer
    [mail] = server.mails
    assert server.logins == ["me"]
    assert mail["Subject"] == "[vmguard hyp-a.example.org] VM 'web' is frozen: nas has not answered for 8 s"
    assert mail["To"] == "admins@example.org"
    assert mail["From"] == "vmguard <root@hyp-a.example.org>"
    assert "WARNING: VM 'web' is frozen" in mail.get_content()


def test_the_second_attempt_is_the_same_mail(certificate: Certificate) -> None:
    with MailReceiver(certificate) as server:
        for _ in range(2):
            send(frozen(), mail_target(certificate, server.port))
    first, second = server.mails
    assert first["Message-ID"] == second["Message-ID"]


def test_no_name_adds_a_header_or_a_recipient(certificate: Certificate) -> None:
    with MailReceiver(certificate) as server:
        send(frozen(HOSTILE), mail_target(certificate, server.port))
    [mail] = server.mails
    assert mail["Bcc"] is None
    assert server.recipients == [["admins@example.org"]]
    assert "\\r\\nBcc: thief" in mail["Subject"]
    assert not any(line.startswith("Bcc") for line in mail.get_content().splitlines())


def test_a_wrong_password_a_stranger_and_a_refusal_are_told_in_words(certificate: Certificate, tmp_path: Path) -> None:
    password = secret_file(tmp_path / "password", WORD)
    with MailReceiver(certificate, "me", "another") as server:
        wanted = mail_target(certificate, server.port, user="me", password_file=str(password))
        assert "the server answered 535" in why(frozen(), wanted)
        untrusted = {**wanted, "ca": ""}
        assert "the certificate is not trusted" in why(frozen(), untrusted)
    with MailReceiver(certificate) as server:
        server.answer = "554 5.7.1 no mail from you"
        assert "554 5.7.1 no mail from you" in why(frozen(), mail_target(certificate, server.port))
    assert "Connection refused" in why(frozen(), mail_target(certificate, free_port()))


def test_a_server_that_says_nothing_costs_its_timeout_and_no_more(certificate: Certificate) -> None:
    with Silent() as server:
        began = time.monotonic()
        told = why(frozen(), mail_target(certificate, server.port, timeout=1.0))
        assert "did not answer within 1 s" in told
        assert time.monotonic() - began < 3


def test_the_systems_sendmail_gets_the_mail(tmp_path: Path) -> None:
    program = tmp_path / "sendmail"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/words\ncat > {tmp_path}/mail\n')
    program.chmod(0o755)
    wanted = Target(type=TargetType.SENDMAIL, to=("root",)).as_json()
    assert smtp.by_sendmail(frozen(), wanted, 5.0, str(program)) == f"{program} has taken it"
    assert (tmp_path / "words").read_text() == "-i -f root@hyp-a.example.org -- root\n"
    assert "Subject: [vmguard hyp-a.example.org] VM 'web' is frozen" in (tmp_path / "mail").read_text()
    program.write_text("#!/bin/sh\necho 'no queue'; exit 75\n")
    with pytest.raises(VmguardError, match="status 75: no queue"):
        smtp.by_sendmail(frozen(), wanted, 5.0, str(program))
    with pytest.raises(VmguardError, match="this host has no /nowhere/sendmail"):
        smtp.by_sendmail(frozen(), wanted, 5.0, "/nowhere/sendmail")


# -- web hook ---------------------------------------------------------------------------------------------------------


def test_a_web_hook_gets_the_document_signed_and_with_its_token(tmp_path: Path) -> None:
    files = {key: str(secret_file(tmp_path / key, f"{WORD}-{key}")) for key in ("token_file", "sign_file")}
    with WebReceiver() as server:
        wanted = web_target(server.url, header="X-Site: north", **files)
        assert send(frozen(HOSTILE), wanted) == "200 OK: taken"
    [(path, headers, body)] = server.requests
    assert path == "/hook"
    assert headers["Authorization"] == f"Bearer {WORD}-token_file"
    assert headers["X-Site"] == "north"
    key = f"{WORD}-sign_file".encode()
    assert headers["X-Vmguard-Signature"] == f"sha256={hmac.new(key, body, hashlib.sha256).hexdigest()}"
    told = json.loads(body)
    assert told["events"][0]["vm"] == HOSTILE, "a program gets the name as it is"
    assert told["subject"].isprintable()
    assert (told["schema"], told["state"], told["test"]) == (1, "event", False)
    assert len(told["events"]) == 1


def test_a_url_of_a_file_is_in_no_word_that_is_told(tmp_path: Path) -> None:
    with WebReceiver() as server:
        server.status, server.reason = 403, f"{WORD} is no token"
        url = secret_file(tmp_path / "url", f"{server.url}/{WORD}?key={WORD}")
        told = why(frozen(), web_target(url_file=str(url)))
        assert told.startswith("the server answered 403")
    assert server.requests[0][0] == f"/hook/{WORD}?key={WORD}"
    assert "Connection refused" in why(frozen(), web_target(url_file=str(url)))
    nowhere = secret_file(tmp_path / "nowhere", f"http://{WORD}.invalid/")
    assert "cannot be resolved" in why(frozen(), web_target(url_file=str(nowhere)))


def test_a_redirect_is_not_followed_with_what_is_secret() -> None:
    with WebReceiver() as server:
        server.status = 302
        assert "the server answered 302" in why(frozen(), web_target(server.url))
    assert len(server.requests) == 1


# -- services ---------------------------------------------------------------------------------------------------------


def test_apprise_sends_by_each_url(tmp_path: Path) -> None:
    with WebReceiver() as server:
        lines = f"# a comment\njson://127.0.0.1:{server.port}/{WORD}\nntfy://127.0.0.1:{server.port}/topic\n"
        url = secret_file(tmp_path / "urls", lines)
        wanted = Target(type=TargetType.APPRISE, url_file=str(url), timeout=5.0).as_json()
        assert send(frozen(), wanted) == "2 of 2 services have taken it"
        assert len(server.requests) == 2
        assert b"VM 'web' is frozen" in server.requests[0][2]
        server.status = 500
        told = why(frozen(), wanted)
    assert told == "json:// (line 2) did not take it; ntfy:// (line 3) did not take it" or "line 1" in told


def test_without_apprise_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    url = secret_file(tmp_path / "urls", "json://127.0.0.1/")
    told = why(frozen(), Target(type=TargetType.APPRISE, url_file=str(url)).as_json())
    assert told == "a target of type apprise needs the Python package apprise, which is not installed"
    assert "apt install python3-apprise" in services.apprise_missing()


_NOTIFY_PM = """package PVE::Notify; use JSON::PP;
sub common_template_data { return { fqdn => 'pve1.example.org', hostname => 'pve1' }; }
sub notify {
    my ($severity, $template, $data, $fields) = @_;
    die "could not load template '$template'\\n" if -e "FOLDER/broken";
    open(my $fh, '>', 'FOLDER/told') or die $!;
    print $fh JSON::PP::encode_json([$severity, $template, $data, $fields]);
}
1;
"""


def test_proxmoxs_notification_system_is_called_with_severity_and_fields(tmp_path: Path) -> None:
    """By the signature of PVE::Notify::notify (libpve-notify-perl); Perl itself is real."""
    (tmp_path / "PVE").mkdir()
    (tmp_path / "PVE/Notify.pm").write_text(_NOTIFY_PM.replace("FOLDER", str(tmp_path)))
    perl = (services.PERL, f"-I{tmp_path}")
    assert services.by_proxmox(frozen(HOSTILE), 10.0, perl) == "Proxmox's notification system has taken it"
    severity, template, data, fields = json.loads((tmp_path / "told").read_text())
    assert (severity, template) == ("warning", "vmguard")
    assert data["subject"] == frozen(HOSTILE).subject
    assert data["fqdn"] == "pve1.example.org"
    assert fields == {"type": "vmguard", "hostname": "hyp-a"}
    (tmp_path / "broken").touch()
    with pytest.raises(VmguardError, match="could not load template 'vmguard'"):
        services.by_proxmox(frozen(), 10.0, perl)
    with pytest.raises(VmguardError, match="no notification system of Proxmox VE"):
        services.by_proxmox(frozen(), 10.0)


# -- secrets ----------------------------------------------------------------------------------------------------------


def test_a_secret_that_others_may_read_is_refused_in_words(tmp_path: Path) -> None:
    path = secret_file(tmp_path / "password", WORD, mode=0o640)
    with pytest.raises(BadInput, match=r"holds a secret, and others may read it \(mode 0640\)") as caught:
        secret.read(str(path))
    assert caught.value.hint == f"chmod 600 {path}"
    path.chmod(0o400)
    assert secret.read(str(path)) == WORD
    os.symlink(path, tmp_path / "link")
    assert "cannot be read" in secret.why_not(str(tmp_path / "link"))
    assert "is not a regular file" in secret.why_not(str(tmp_path))
    assert "is empty" in secret.why_not(str(secret_file(tmp_path / "empty", "")))


def test_a_credential_of_systemds_is_read_from_its_folder(tmp_path: Path) -> None:
    secret_file(tmp_path / "mail", WORD, mode=0o440)  # as systemd makes them, with an ACL
    assert secret.read("credential:mail", str(tmp_path)) == WORD
    with pytest.raises(BadInput, match=r"the credential other of vmguard\.service cannot be read") as caught:
        secret.read("credential:other", str(tmp_path))
    assert "LoadCredential=other:" in caught.value.hint
