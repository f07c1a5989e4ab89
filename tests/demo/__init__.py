"""The demo: vmguard's main job on a lab of real kernels, live on the terminal. Run it with tests/lab/demo."""
