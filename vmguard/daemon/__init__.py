"""The daemon: holds the descriptors, follows the processes, releases only on proof."""
