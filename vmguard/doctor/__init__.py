"""``vmguard doctor``: what is unsafe on this host, why it matters, and the command that mends it.

Looking and judging are apart: ``look_*`` ask the kernel, the share, libvirt and the daemon and fill in the facts of
``facts.py``; ``judge_*`` are pure functions from facts to findings. ``catalogue.py`` names every check and says why it
matters; ``examine.py`` puts it all together.
"""
