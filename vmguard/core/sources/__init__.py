"""Sources: which files a VM uses, read from configuration, image headers and the arguments of processes.

backup_job          the files that a backup writes beside a VM
domain_xml          libvirt's domain XML
image_header        the first bytes of a disk image: the images and data files that it needs
image_name          the name of an image in another image's header, as QEMU interprets it
process_arguments   QEMU and its helpers, recognised by program and arguments
pve_config          Proxmox's VMID.conf
pve_plan            the storage of a VM on Proxmox
pve_storage         Proxmox's storage.cfg, and the file of a volume id
qemu_json           JSON as QEMU reads it in the name of an image
secrets             what is secret in the name of an image, and in any text
vm_scope            the control group that a hypervisor makes for one VM
xml_tree            the few wanted parts of an XML document, within limits
"""
