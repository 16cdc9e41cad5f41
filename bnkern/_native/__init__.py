"""What is compiled: kernels, drivers, memory, and the fast side of the checks. Extension modules alone live here."""
