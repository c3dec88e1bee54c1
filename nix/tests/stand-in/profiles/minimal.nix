# What a guest imports of nixpkgs.
{ }
