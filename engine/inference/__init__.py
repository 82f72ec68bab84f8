"""Action recognition on videos, folders, cameras and streams.

sources         videos, folders, cameras and streams
windows         clips over the whole of a video
prediction      probabilities of a video and of its moments
live            recognition while a camera runs
grad_cam        the places and moments behind an answer
annotate        videos with the answer drawn on them
overlay         drawing of the answer on a frame
video_writer    video files and GIFs
preview_window  a window on the screen
csv_table       answers as csv
read_ahead      reading in threads while the network computes
recognizer      Recognizer: a network and its answers on videos
job             one command: outputs, and an answer for every source
"""
