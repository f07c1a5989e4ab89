"""The one wire protocol between hooks, command line and daemon."""
