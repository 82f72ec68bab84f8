"""An HTTP service that recognises actions in uploaded videos.

app         routes
schema      requests and answers
service     jobs: from upload to answer
batcher     windows of several requests in one batch
decoding    decoder processes
decoder     decodes one upload, in a child process
uploads     upload bodies, checked while they arrive
connection  limits of connections
limits      limits of the service
pictures    small pictures of windows
page        the web page
server      address and web server
"""
