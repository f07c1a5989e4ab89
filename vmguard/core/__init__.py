"""The pure core: what to lock, who owns it, what a verdict means. No system calls, no third-party imports."""
