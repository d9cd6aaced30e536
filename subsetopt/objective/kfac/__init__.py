"""Kronecker-factored curvature (K-FAC, EKFAC): factors, eigenvalues, damping."""
