"""`pairuni pretrain`: trains the small models of the Shapes world from nothing."""
