"""libvirt by its files; only its own commands and the hook's proof speak to it.

hook_file   where the hook must lie, and the proof that libvirt calls it
host        what libvirt leaves in /run and /etc
hypervisor  libvirt, as the port sees it
"""
