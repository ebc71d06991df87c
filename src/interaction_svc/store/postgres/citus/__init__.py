"""Distribution of the tables over the nodes of a Citus cluster."""
