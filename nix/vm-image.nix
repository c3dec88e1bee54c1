# An image for the worker from a NixOS configuration: a store path with `vm-config.json`, `vmlinux`, `initrd` and `disk.img`
# (docs/vm-config.md).
{
  pkgs,
  # The store path's name.
  name ? "vm-image",
  # Of the NixOS configuration.
  modules ? [ ],
  # "erofs" or "ext4", as nix/guest.nix explains.
  rootFileSystem ? "erofs",
  # The size of what the guest may write to, in bytes: /var, or with ext4 everything.
  volumeBytes ? 4 * 1024 * 1024 * 1024,
  vcpus ? 2,
  memoryBytes ? 1024 * 1024 * 1024,
  # What is merged into the description, like `{ procurator.health = …; }`.
  vmConfig ? { },
  # How a configuration is evaluated.
  evaluate ? arguments: import (pkgs.path + "/nixos/lib/eval-config.nix") arguments,
}:
let
  inherit (pkgs) lib;
  nixos = evaluate {
    inherit (pkgs.stdenv.hostPlatform) system;
    modules = [
      ./guest.nix
      { procurator.rootFileSystem = rootFileSystem; }
    ]
    ++ modules;
  };
  inherit (nixos) config;
  top = config.system.build.toplevel;
  kernel = "${config.system.build.kernel}/${config.system.boot.loader.kernelFile}";
  initrd = "${config.system.build.initialRamdisk}/${config.system.boot.loader.initrdFile}";

  disks = {
    erofs = [
      {
        id = "store";
        path = "disk.img";
        readonly = true;
      }
    ];
    ext4 = [
      {
        id = "root";
        path = "disk.img";
      }
    ];
  };

  description = lib.recursiveUpdate {
    cpus = {
      boot_vcpus = vcpus;
      max_vcpus = vcpus;
    };
    memory.size = memoryBytes;
    payload = {
      kernel = "vmlinux";
      initramfs = "initrd";
      cmdline = toString ([ "init=${top}/init" ] ++ config.boot.kernelParams);
    };
    disks = disks.${config.procurator.rootFileSystem};
    net = [ { } ];
    serial.mode = "Tty";
    console.mode = "Off";
    balloon = {
      size = 0;
      deflate_on_oom = true;
      free_page_reporting = true;
    };
    vsock = {
      cid = 3;
      socket = "vsock.sock";
    };
    pvpanic = true;
    # With erofs a further disk, blank at first; with ext4 the root grows to it.
    procurator.disks = [
      {
        id = if rootFileSystem == "erofs" then "var" else "root";
        size = volumeBytes;
      }
    ];
  } vmConfig;
in
pkgs.runCommand name
  {
    nativeBuildInputs = [
      pkgs.erofs-utils
      pkgs.e2fsprogs
    ];
    closure = "${pkgs.closureInfo { rootPaths = [ top ]; }}/store-paths";
    description = builtins.toJSON description;
    passAsFile = [ "description" ];
    passthru = { inherit config description; };
  }
  ''
    mkdir $out
    cp ${kernel} $out/vmlinux
    cp ${initrd} $out/initrd
    cp "$descriptionPath" $out/vm-config.json
    sh ${./make-disk.sh} ${rootFileSystem} "$closure" $out/disk.img
  ''
