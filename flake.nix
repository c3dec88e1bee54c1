# The worker for Nix: its package, a NixOS module that runs it, and `lib.mkVmImage`, which makes images for it from NixOS
# configurations. docs/nix.md shows how each is used.
{
  description = "Procurator worker: runs the virtual machines of a host";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      # What the worker runs on.
      system = "x86_64-linux";
      pkgs = nixpkgs.legacyPackages.${system};
      worker = pkgs.callPackage ./nix/package.nix { };
      mkVmImage = import ./nix/vm-image.nix;
    in
    {
      packages.${system} = {
        procurator-worker = worker;
        default = worker;
      };

      overlays.default = final: _previous: {
        procurator-worker = final.callPackage ./nix/package.nix { };
      };

      nixosModules.default =
        { pkgs, lib, ... }:
        {
          imports = [ ./nix/module.nix ];
          services.procurator-worker.package = lib.mkDefault (pkgs.callPackage ./nix/package.nix { });
        };

      lib.mkVmImage = arguments: mkVmImage ({ inherit pkgs; } // arguments);

      checks.${system} = {
        procurator-worker = worker;
        evaluation = pkgs.callPackage ./nix/tests/check.nix { };
        # A whole system: what only nixpkgs itself can say of the options that an image sets.
        image = mkVmImage {
          inherit pkgs;
          name = "check";
          modules = [ { services.openssh.enable = true; } ];
        };
      };
    };
}
