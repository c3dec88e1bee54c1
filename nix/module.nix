# NixOS: the worker as a service, with the units that it ships.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.procurator-worker;
  inherit (lib) mkOption types;
  settings = import ./settings.nix { inherit lib; };
  toml = pkgs.formats.toml { };
  json = pkgs.formats.json { };
  configuration = toml.generate "worker.toml" (settings.withoutAbsent cfg.settings);
  assignments = json.generate "vms.json" (
    { inherit (cfg) vms; } // lib.optionalAttrs cfg.allowRemovals { allow_removals = true; }
  );
in
{
  options.services.procurator-worker = {
    enable = lib.mkEnableOption "the Procurator worker, which runs this host's virtual machines";

    package = mkOption {
      type = types.package;
      description = "The worker. It brings its units along.";
    };

    settings = mkOption {
      type = settings.type;
      default = { };
      example = lib.literalExpression ''{ stop_timeout_seconds = 60; network.subnet = "10.42.0.0/16"; }'';
      description = "What `worker.toml` says, key by key; docs/configuration.md explains each.";
    };

    vms = mkOption {
      type = types.nullOr (types.listOf json.type);
      default = null;
      example = lib.literalExpression ''[ { id = "web-1"; hash = "sha256-…="; store_path = "''${image}"; } ]'';
      description = ''
        The VMs of this host, as the assignments file lists them. With a list, `settings.assignments` is that file: a switch
        to another configuration applies it, and VMs that it leaves as they are run on. `null` leaves assignments to
        `settings` and to masters.
      '';
    };

    allowRemovals = mkOption {
      type = types.bool;
      default = false;
      description = "Lets `vms` be empty, or lose everything that it had, where the worker would ask first.";
    };
  };

  config = lib.mkIf cfg.enable {
    systemd.packages = [ cfg.package ];
    systemd.services.procurator-worker = {
      wantedBy = [ "multi-user.target" ];
      # `nft`, and `systemd-run` for the scopes of host processes.
      path = [
        pkgs.nftables
        config.systemd.package
      ];
      # VMs run on through a restart, and the file of assignments is watched.
      restartTriggers = [ configuration ];
      stopIfChanged = false;
    };
    systemd.tmpfiles.rules = [
      "d /etc/procurator/credentials 0700 root root -"
      "w /sys/kernel/mm/transparent_hugepage/shmem_enabled - - - - advise"
    ];

    environment.systemPackages = [ cfg.package ];
    environment.etc = {
      "procurator/worker.toml".source = configuration;
    }
    // lib.optionalAttrs (cfg.vms != null) { "procurator/vms.json".source = assignments; };
    services.procurator-worker.settings = lib.mkIf (cfg.vms != null) {
      assignments = lib.mkDefault "/etc/procurator/vms.json";
    };
    users.groups.procurator = { };
    boot.kernelModules = [
      "tun"
      "vhost_net"
    ];
  };
}
