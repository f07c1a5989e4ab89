"""The configuration: YAML in /etc/vmguard/vmguard.yaml and conf.d/*.yaml, read into frozen, typed sections.

::

    from vmguard import config

    settings = config.load()            # or load(["/some/file.yaml"]); raises ConfigError with .problems
    settings.hook.wait                  # 3.0, seconds
    settings, problems = config.load_or_last_good(settings)      # at reload
    config.needs_restart(old, new)      # ["daemon.run_dir"]

``settings.py`` is the table that everything is made from, ``values.py`` the kinds of values, ``document.py`` reads
YAML with its lines, ``loader.py`` judges it, ``checks.py`` what settings must be to each other, ``render.py`` writes
the shipped file. PyYAML is imported only when there is a file to read.
"""

from vmguard.config.checks import contradictions
from vmguard.config.choices import LocalFiles, LogLevel, Verdict, Window
from vmguard.config.loader import (
    DIRECTORY,
    default_paths,
    load,
    load_or_last_good,
    needs_restart,
)
from vmguard.config.problems import BadConfig, Problem, did_you_mean
from vmguard.config.render import example, introduction, vms_help
from vmguard.config.settings import (
    Config,
    Origin,
    Setting,
    sections,
    settings,
    vm_settings,
)
from vmguard.config.values import format_duration, parse_duration

__all__ = [
    "DIRECTORY",
    "BadConfig",
    "Config",
    "LocalFiles",
    "LogLevel",
    "Origin",
    "Problem",
    "Setting",
    "Verdict",
    "Window",
    "contradictions",
    "default_paths",
    "did_you_mean",
    "example",
    "format_duration",
    "introduction",
    "load",
    "load_or_last_good",
    "needs_restart",
    "parse_duration",
    "sections",
    "settings",
    "vm_settings",
    "vms_help",
]
