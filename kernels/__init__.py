"""Tensor operations behind one interface each; knows nothing of models or sessions."""
