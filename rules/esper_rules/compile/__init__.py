"""ESP1, what torch.compile makes of the network."""
