"""Stage 02, makemore: from counting letters to a deep network, and how to see inside it.

Character models of names, each better than the one before: a table of counts, one linear layer, a perceptron with
embeddings, a deep network with normalisation. On the way: what a tensor is in memory, how to start a network well, which
pictures show that it is sick, and how to find a learning rate by looking.
"""
