"""A descriptor a video: what a layer of a network says of its windows, pooled; and classifiers on descriptors."""
