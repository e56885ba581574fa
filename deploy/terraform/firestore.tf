# The database of jobs, the indexes that its queries need, and no others.

resource "google_firestore_database" "illo" {
  name                    = "(default)"
  location_id             = var.region
  type                    = "FIRESTORE_NATIVE"
  delete_protection_state = "DELETE_PROTECTION_ENABLED"
  deletion_policy         = "ABANDON"

  depends_on = [google_project_service.needed]
}

resource "google_firestore_index" "composite" {
  for_each = local.indexes

  database    = google_firestore_database.illo.name
  collection  = each.value.collectionGroup
  query_scope = each.value.queryScope

  dynamic "fields" {
    for_each = each.value.fields
    content {
      field_path   = fields.value.fieldPath
      order        = try(fields.value.order, null)
      array_config = try(fields.value.arrayConfig, null)
    }
  }
}

# Firestore would index every field by itself, and write all of that at each heartbeat: it is told
# to keep those of one field that a query asks for, and to remove what has expired.
resource "google_firestore_field" "override" {
  for_each = local.fields

  database   = google_firestore_database.illo.name
  collection = each.value.collectionGroup
  field      = each.value.fieldPath

  index_config {
    dynamic "indexes" {
      for_each = each.value.indexes
      content {
        query_scope  = indexes.value.queryScope
        order        = try(indexes.value.order, null)
        array_config = try(indexes.value.arrayConfig, null)
      }
    }
  }

  dynamic "ttl_config" {
    for_each = try(each.value.ttl, false) ? [true] : []
    content {}
  }
}

# Rules are for apps that talk to Firestore themselves, and there are none: the services come by IAM.
resource "google_firebaserules_ruleset" "closed" {
  provider = google.quota

  source {
    files {
      name    = "firestore.rules"
      content = <<-RULES
        rules_version = '2';
        service cloud.firestore {
          match /databases/{database}/documents {
            match /{document=**} {
              allow read, write: if false;
            }
          }
        }
      RULES
    }
  }

  depends_on = [google_firestore_database.illo]
}

resource "google_firebaserules_release" "closed" {
  provider = google.quota

  name         = "cloud.firestore"
  ruleset_name = google_firebaserules_ruleset.closed.name
}
