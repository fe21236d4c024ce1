"""One process serving one revision of one model with MLflow's own scoring application."""
