# Builds an image that the worker must refuse: its description, and what `commands` adds.
set -eu
export PATH="$toolPath"
mkdir "$out"
echo "$vmConfig" >"$out/vm-config.json"
eval "$commands"
