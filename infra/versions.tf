terraform {
  # Validations refer to other variables, which Terraform can since 1.9. The tests need 1.11.
  required_version = ">= 1.9"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 8.0"
    }
  }
}
