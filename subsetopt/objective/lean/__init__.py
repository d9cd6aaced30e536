"""Second derivatives of common layers that cost less than autograd's."""
