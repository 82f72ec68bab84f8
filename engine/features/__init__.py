"""Features of videos, and a linear SVM on them, as in the C3D paper.

layers      the layer whose output is the feature
pooling     features of windows -> one of the video
extraction  features of a data set or of video files
store       feature folders
svm         PCA and the linear SVM
mislabelled  videos whose label may be wrong
protocol    training and test by the splits of a data set
job         the commands extract, svm and predict
"""
