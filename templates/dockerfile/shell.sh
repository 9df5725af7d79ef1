# The shell of every RUN of this stage: what the network needs, then the command.
. /tricompose/network.sh || exit
exec /bin/sh -c "$1"
