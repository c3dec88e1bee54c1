# What makes a NixOS configuration one that boots as a VM of the worker. docs/machine.md says what the machine offers.
#
# With `erofs`, the closure is a file system of its own that nothing changes and that VMs of one image share; the root is in
# memory, and /var is a volume. With `ext4`, everything is one volume.
{
  config,
  lib,
  modulesPath,
  ...
}:
let
  cfg = config.procurator;
in
{
  imports = [ (modulesPath + "/profiles/minimal.nix") ];

  options.procurator.rootFileSystem = lib.mkOption {
    type = lib.types.enum [
      "erofs"
      "ext4"
    ];
    default = "erofs";
    description = "What the closure lies in.";
  };

  config = {
    # The worker loads kernel and initial RAM disk itself.
    boot.loader.grub.enable = false;
    boot.initrd.systemd.enable = true;
    boot.kernelParams = [
      "console=ttyS0"
      "panic=-1"
    ];
    boot.initrd.availableKernelModules = [
      "virtio_pci"
      "virtio_blk"
      "ext4"
    ]
    ++ lib.optional (cfg.rootFileSystem == "erofs") "erofs";
    # The power button, memory that goes back to the host, sockets, entropy, the generation identifier and the panic device.
    boot.kernelModules = [
      "button"
      "evdev"
      "virtio_balloon"
      "virtio_console"
      "virtio_net"
      "virtio_rng"
      "vmgenid"
      "vmw_vsock_virtio_transport"
      "pvpanic-mmio"
    ];

    # Disks come in the order of the description; the volume, which has no image, follows them.
    fileSystems =
      if cfg.rootFileSystem == "erofs" then
        {
          "/" = {
            device = "none";
            fsType = "tmpfs";
            options = [ "mode=0755" ];
          };
          "/nix/store" = {
            device = "/dev/vda";
            fsType = "erofs";
            options = [ "ro" ];
            neededForBoot = true;
          };
          "/var" = {
            device = "/dev/vdb";
            fsType = "ext4";
            autoFormat = true;
            neededForBoot = true;
          };
        }
      else
        {
          "/" = {
            device = "/dev/vda";
            fsType = "ext4";
            autoResize = true;
          };
        };

    # Names, addresses and routes come from the worker, by DHCP.
    networking.hostName = lib.mkDefault "";
    networking.useNetworkd = true;
    networking.useDHCP = true;
    systemd.services."serial-getty@ttyS0".enable = lib.mkDefault true;
    # The image is replaced as a whole.
    nix.enable = lib.mkDefault (cfg.rootFileSystem == "ext4");
    documentation.enable = lib.mkDefault false;
  };
}
