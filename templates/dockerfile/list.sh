# Lists every file of the stage: one record a file, ended by a NUL, of its type, mode, owner, group, size, time, path
# and where a link leads. What Docker puts into a container, and what building leaves lying about, is not listed.
# Source: POSIX sh, GNU find.
cd /
find . -xdev \
    \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./tmp/\* -o -path ./run/\* -o -path ./tricompose \
    -o -path ./.dockerenv -o -path ./etc/resolv.conf -o -path ./etc/hosts -o -path ./etc/hostname -o -path ./etc/mtab \
    -o -path ./var/lib/apt/lists/\* -o -path ./var/cache/apt/\* -o -path ./var/cache/debconf/\*-old \
    -o -path ./var/cache/ldconfig/\* -o -path ./var/lib/dpkg/\*-old -o -path ./var/log/apt -o -path ./var/log/dpkg.log \
    -o -path ./var/log/alternatives.log -o -path ./root/.cache -o -path ./root/.wget-hsts "$@" \) -prune -o \
    \( -type d -printf '%y %m %U %G - %T@ %p\0' -o -type l -printf '%y %m %U %G %s %T@ %p\001%l\0' \
    -o ! -type s -printf '%y %m %U %G %s %T@ %p\0' \)
