# Source this (bash or zsh): the Python environment, ROS 2 and the built packages, ready to use.
#
#     source scripts/env.sh
#     whetstone run --help
#
# Works with the ROS 2 wheels that `make setup` puts into .venv and equally after `source /opt/ros/jazzy/setup.bash`.
# Sourcing it twice is harmless. It sets defaults only where you have not set the variable yourself.

_whetstone_file="${BASH_SOURCE[0]:-$0}"
_whetstone_root="$(cd "$(dirname "$_whetstone_file")/.." && pwd)"
export WHETSTONE_ROOT="$_whetstone_root"

# Puts a folder in front of a colon-separated variable unless it is in it.
_whetstone_prepend() {
  local current
  eval "current=\"\${$1:-}\""
  case ":$current:" in
    *":$2:"*) ;;
    *) export "$1=$2${current:+:$current}" ;;
  esac
}

if [ -f "$_whetstone_root/.venv/bin/activate" ]; then
  . "$_whetstone_root/.venv/bin/activate"
else
  echo "env.sh: no .venv here yet; run 'make setup' first" >&2
fi

# ROS 2 from wheels: the environment is itself an ament prefix, and its libraries lie beside the Python packages.
# Where ROS 2 is installed on the system the environment holds no rclpy and this part does nothing.
for _whetstone_dir in "$_whetstone_root"/.venv/lib/python3*/site-packages; do
  if [ -d "$_whetstone_dir/rclpy" ]; then
    _whetstone_prepend AMENT_PREFIX_PATH "$_whetstone_root/.venv"
    _whetstone_prepend CMAKE_PREFIX_PATH "$_whetstone_root/.venv"
    for _whetstone_libs in $(ls -d "$_whetstone_dir"/ros_*.libs 2>/dev/null) "$_whetstone_root/.venv/lib"; do
      _whetstone_prepend LD_LIBRARY_PATH "$_whetstone_libs"
    done
    # The wheels restart every interpreter once to set LD_LIBRARY_PATH; it is set, so skip that.
    export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
    export ROS_DISTRO="${ROS_DISTRO:-jazzy}" ROS_VERSION=2 ROS_PYTHON_VERSION=3
  fi
done

if [ -f "$_whetstone_root/install/local_setup.sh" ]; then
  # colcon's script reads variables that may be unset, which a caller under `set -u` (make is one) would not survive.
  case $- in *u*) _whetstone_nounset=1 ;; *) _whetstone_nounset= ;; esac
  set +u
  if [ -n "${ZSH_VERSION:-}" ]; then
    . "$_whetstone_root/install/local_setup.zsh"
  else
    . "$_whetstone_root/install/local_setup.bash"
  fi
  if [ -n "$_whetstone_nounset" ]; then set -u; fi
  unset _whetstone_nounset
  # The `whetstone` command; ROS keeps its executables in lib/<package>, which is on nobody's PATH.
  _whetstone_prepend PATH "$_whetstone_root/scripts/bin"
fi

# A run talks to its own machine only, unless told otherwise.
export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"

# Rendering without a display: EGL where the library is there, else OSMesa.
if [ -z "${MUJOCO_GL:-}" ]; then
  # (by PATH, for a user's often lacks /sbin)
  if PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null | grep -q 'libEGL\.so\.1'; then
    export MUJOCO_GL=egl
  else
    export MUJOCO_GL=osmesa
  fi
  export PYOPENGL_PLATFORM="${PYOPENGL_PLATFORM:-$MUJOCO_GL}"
fi

unset -f _whetstone_prepend
unset _whetstone_file _whetstone_root _whetstone_dir _whetstone_libs
