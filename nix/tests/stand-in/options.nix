# The options of NixOS that the modules of this folder set, by the same names and types; each does nothing.
{ lib, ... }:
let
  inherit (lib) mkOption types;
  option = type: default: mkOption { inherit type default; };
  texts = option (types.listOf types.str) [ ];
  switch = option types.bool false;
  set = option (types.attrsOf types.anything) { };
in
{
  options = {
    boot = {
      loader.grub.enable = switch;
      initrd.systemd.enable = switch;
      initrd.availableKernelModules = texts;
      kernelModules = texts;
      kernelParams = texts;
    };
    documentation.enable = switch;
    environment.etc = set;
    environment.systemPackages = option (types.listOf types.package) [ ];
    fileSystems = option (types.attrsOf (
      types.submodule {
        options = {
          device = option types.str "";
          fsType = option types.str "auto";
          options = texts;
          neededForBoot = switch;
          autoFormat = switch;
          autoResize = switch;
        };
      }
    )) { };
    networking.hostName = option types.str "nixos";
    networking.useDHCP = switch;
    networking.useNetworkd = switch;
    nix.enable = switch;
    services.openssh.enable = switch;
    systemd.package = option types.str "/systemd";
    systemd.packages = option (types.listOf types.package) [ ];
    systemd.services = set;
    systemd.tmpfiles.rules = texts;
    system.build = set;
    system.boot.loader.kernelFile = option types.str "bzImage";
    system.boot.loader.initrdFile = option types.str "initrd";
    users.groups = set;
  };
}
