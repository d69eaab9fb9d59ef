import argparse

import mlflow
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier

parser = argparse.ArgumentParser()
parser.add_argument("--max-depth", type=int)
parser.add_argument("--test-size", type=float)
arguments = parser.parse_args()

mlflow.sklearn.autolog()
features, target = load_iris(return_X_y=True)
split = train_test_split(features, target, test_size=arguments.test_size, random_state=0)
with mlflow.start_run():
    model = DecisionTreeClassifier(max_depth=arguments.max_depth, random_state=0).fit(split[0], split[2])
    mlflow.log_metric("test_accuracy", model.score(split[1], split[3]))
