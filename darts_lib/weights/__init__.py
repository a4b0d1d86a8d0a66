"""Files of weights: ours, the original's and MMRazor's, read, written and exported."""
