"""Stage 01, micrograd: what `loss.backward()` does.

A scalar autograd engine, small enough to read in one sitting: numbers that remember how they were made, the chain rule
walked backwards over that memory, and a first neural network trained with it. Everything after this stage is the same
idea on larger numbers.
"""
