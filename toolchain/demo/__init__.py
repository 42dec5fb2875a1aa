"""The whole job without a network, a data set or a device of the user's own."""
