"""Stage 04, GPT-2: the real one.

Byte pair encoding, GPT-2's architecture to the letter, and the training system around it. Read in the order in which data
flow: config, bpe, tokenizer, data, loader, model, cache, optim, evaluate, sealed, checkpoint, generate, run, trial, and train,
which tells the story. Start it with `python -m 04_gpt2.train`. Published weights come in through hub and weights; export
writes a trained model for others, verify proves both equal, pretrained is the command.
"""
