if [[ ! -d /sys/class/infiniband ]]; then
  echo
  echo "NOTE: no InfiniBand driver was found; multi-node communication may be slow."
fi
