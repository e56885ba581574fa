# Which Terraform and which provider this is written for, and where its state lies.

terraform {
  required_version = ">= 1.9" # validations that compare two variables

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 6.50" # what tests/deploy/provider_schema.json was taken from
    }
  }

  # terraform init -backend-config="bucket=NAME"; no secret is ever in it, but who writes it rules
  backend "gcs" {
    prefix = "illo"
  }
}

provider "google" {
  project = var.project
  region  = var.region
}

# The APIs of budgets and of Firebase's rules refuse a person who does not say which project's quota a
# call is charged to. Nothing else should be asked in that way: an empty project has too few APIs on.
provider "google" {
  alias                 = "quota"
  project               = var.project
  user_project_override = true
  billing_project       = var.project
}
