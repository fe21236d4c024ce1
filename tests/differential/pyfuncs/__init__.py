"""Models from code: `mlflow.pyfunc.save_model` copies each file into a saved model, so none imports another."""
