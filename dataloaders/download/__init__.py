"""Download of UCF101 and HMDB51: `python -m dataloaders.download`.

__main__  the command line; fetches, checks and unpacks
http      files over HTTP, with resume
archives  .rar and .zip archives
"""
