"""vmguard on real kernels: what the promise says, seen to hold, and seen to break without vmguard."""
