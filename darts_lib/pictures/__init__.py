"""Image data on disk: data sets that are downloaded, folders of one's own, ImageNet's labels."""
