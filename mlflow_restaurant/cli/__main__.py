"""``python -m mlflow_restaurant.cli``."""

from mlflow_restaurant.cli.base import main

main()
