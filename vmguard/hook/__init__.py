"""The hypervisors' hooks: thin clients, standard library only, quick to import."""
