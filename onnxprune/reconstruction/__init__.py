"""Layer-wise reconstruction: pruned weights are fitted, layer after layer, to what the layer gave before."""
