"""A Recognizer behind HTTP: uploads, processes that decode them, a thread that runs the network, a page."""
