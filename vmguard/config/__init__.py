"""The configuration: YAML in /etc/vmguard/vmguard.yaml and conf.d/*.yaml, read into frozen, typed sections.

::

    from vmguard import config

    settings = config.load()            # or load(["/some/file.yaml"]); raises ConfigError with .problems
    settings.hook.wait                  # 3.0, seconds
    settings, problems = config.load_or_last_good(settings)      # at reload
    config.needs_restart(old, new)      # ["daemon.run_dir"]

PyYAML is imported only when there is a file to read.

settings   the table of settings, from which everything else is made
libvirt    section ``libvirt`` of the table
migration  section ``migration``
notify     section ``notify``, and the keys of its targets
owner_record  section ``owner_record``
proxmox    section ``proxmox``
servers    the entries of ``servers``: how each storage server is asked
storage    section ``storage``
watch      section ``watch``
row        how a row of the table is written
values     the kinds of values: how each is read, shown and described
choices    the words that a setting may have
document   reads a YAML file into a tree that knows its lines
loader     turns files into a Config, or names every problem
last_good  the last one without a mistake, kept on disk
checks     what settings must be to each other
problems   a problem with file, line and key, and the error that carries all of them
render     writes the shipped, commented file
"""

from vmguard.config.checks import contradictions
from vmguard.config.choices import LocalFiles, LogLevel, PolicyAction, ServerKind, SessionVms, Transport, Window
from vmguard.config.last_good import load_or_kept
from vmguard.config.loader import (
    DIRECTORY,
    default_paths,
    load,
    load_or_last_good,
    needs_restart,
)
from vmguard.config.notify import SECRET_KEYS, Target, target_keys
from vmguard.config.problems import BadConfig, Problem, did_you_mean
from vmguard.config.render import SERVERS_HELP, example, introduction, targets_help, vms_help
from vmguard.config.servers import Server
from vmguard.config.settings import (
    Config,
    Origin,
    Setting,
    sections,
    server_settings,
    settings,
    vm_settings,
)
from vmguard.config.values import format_duration, parse_duration

__all__ = [
    "DIRECTORY",
    "SECRET_KEYS",
    "SERVERS_HELP",
    "BadConfig",
    "Config",
    "LocalFiles",
    "LogLevel",
    "Origin",
    "PolicyAction",
    "Problem",
    "Server",
    "ServerKind",
    "SessionVms",
    "Setting",
    "Target",
    "Transport",
    "Window",
    "contradictions",
    "default_paths",
    "did_you_mean",
    "example",
    "format_duration",
    "introduction",
    "load",
    "load_or_kept",
    "load_or_last_good",
    "needs_restart",
    "parse_duration",
    "sections",
    "server_settings",
    "settings",
    "target_keys",
    "targets_help",
    "vm_settings",
    "vms_help",
]
