"""The ten lines of the README: log a bundle, deploy it, ask it."""

import mlflow, mlflow_restaurant, pandas as pd
from mlflow.deployments import get_deploy_client
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

def text(emails): return (emails["subject"] + " " + emails["body"]).str.lower()

emails = pd.DataFrame({"subject": ["Win money", "Lunch?"] * 5, "body": ["click now", "at noon"] * 5})
words = TfidfVectorizer().fit(text(emails))
model = LogisticRegression().fit(words.transform(text(emails)), ["spam", "ham"] * 5)
bundle = mlflow_restaurant.Bundle(preprocess=[text, words], model=model)
mlflow_restaurant.log_model(bundle, name="spam", input_example=emails.head(2), registered_model_name="spam")

client = get_deploy_client("restaurant")
client.create_deployment("spam", "models:/spam/1")
print(client.predict("spam", pd.DataFrame({"subject": ["You win"], "body": ["click"]})))
