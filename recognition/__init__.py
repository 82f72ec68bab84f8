"""What an answer on a video is made of: sources, windows, predictions, and the pictures that show them."""
