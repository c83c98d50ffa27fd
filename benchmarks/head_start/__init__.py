"""Head start: is a training that starts from a network of the targets ahead of one from scratch, and for how long?"""
