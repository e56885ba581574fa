# Everything that differs from one deployment to another, each with what it may be.

# --- where, and who pays --------------------------------------------------------------------------

variable "project" {
  description = "The id of the Google Cloud project."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "A project's id has 6 to 30 of a-z, 0-9 and hyphens, and begins with a letter."
  }
}

variable "region" {
  description = "The region of everything. It must have the GPU; an L4 in us-central1 is by invitation."
  type        = string
  default     = "us-east4"
  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "Name one region, such as europe-west4: neither a zone nor a multi-region."
  }
}

variable "billing_account" {
  description = "The billing account that the budget watches, XXXXXX-XXXXXX-XXXXXX; null: no budget, and nobody is told."
  type        = string
  nullable    = true
  validation {
    condition     = var.billing_account == null || can(regex("^[0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6}$", var.billing_account))
    error_message = "A billing account is named XXXXXX-XXXXXX-XXXXXX: `gcloud billing accounts list`."
  }
}

variable "monthly_budget" {
  description = "What a month may cost before everybody is told, in whole units of the billing account's currency."
  type        = number
  default     = 100
  validation {
    condition     = var.monthly_budget >= 1 && floor(var.monthly_budget) == var.monthly_budget
    error_message = "The budget is a whole number, 1 or more."
  }
}

variable "instance_price_per_hour" {
  description = "US dollars for an hour of one worker with its GPU, CPU and memory; see docs/operations.md."
  type        = number
  default     = 1.42 # L4, 8 vCPU and 32 GiB in us-central1, August 2026; with 4 and 16 it is 1.05
  validation {
    condition     = var.instance_price_per_hour > 0 && var.instance_price_per_hour < 100
    error_message = "An hour of a worker costs more than nothing and less than 100 dollars."
  }
}

# --- what runs ------------------------------------------------------------------------------------

variable "api_image" {
  description = "The API's first image, by digest; null: only the ground is laid. The pipeline deploys later ones."
  type        = string
  default     = null
  validation {
    condition     = var.api_image == null || can(regex("^[a-z0-9./_-]+@sha256:[0-9a-f]{64}$", var.api_image))
    error_message = "Name the image by its digest, HOST/PROJECT/REPOSITORY/api@sha256:…: a tag may move."
  }
}

variable "worker_image" {
  description = "The worker's first image, by digest; null: only the ground is laid. The pipeline deploys later ones."
  type        = string
  default     = null
  validation {
    condition     = var.worker_image == null || can(regex("^[a-z0-9./_-]+@sha256:[0-9a-f]{64}$", var.worker_image))
    error_message = "Name the image by its digest, HOST/PROJECT/REPOSITORY/worker@sha256:…: a tag may move."
  }
}

variable "keys_version" {
  description = "Which version of the secret illo-keys the API reads; null: only the ground is laid."
  type        = string
  default     = null
  validation {
    condition     = var.keys_version == null || can(regex("^[1-9][0-9]*$", var.keys_version))
    error_message = "Name a version by its number: what is latest may change under a running service."
  }
}

variable "weights_folder" {
  description = "The folder of the weights bucket that holds manifest.json."
  type        = string
  default     = "kontext-q8"
  validation {
    condition     = can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$", var.weights_folder))
    error_message = "A folder is a plain path, with no slash at either end."
  }
}

variable "more_settings" {
  description = "Other settings of docs/settings.md for both services, such as { ILLO_QUOTA_JOBS_PER_DAY = \"500\" }."
  type        = map(string)
  default     = {}
  validation {
    condition     = alltrue([for name in keys(var.more_settings) : startswith(name, "ILLO_") && !contains(local.settled, name)])
    error_message = "Only ILLO_… names that nothing else here sets; keys and what has a variable of its own are set there."
  }
}

# --- the worker -----------------------------------------------------------------------------------

variable "worker_gpu" {
  description = "The GPU of a worker."
  type        = string
  default     = "nvidia-l4"
  validation {
    condition     = contains(["nvidia-l4", "nvidia-rtx-pro-6000"], var.worker_gpu)
    error_message = "Cloud Run has nvidia-l4 and nvidia-rtx-pro-6000."
  }
}

variable "worker_cpu" {
  description = "vCPUs of a worker."
  type        = number
  default     = 8
  validation {
    condition     = var.worker_gpu == "nvidia-l4" ? contains([4, 6, 8], var.worker_cpu) : var.worker_cpu >= 20
    error_message = "An L4 goes with 4, 6 or 8 vCPUs, an RTX PRO 6000 with 20 or more."
  }
}

variable "worker_memory_gib" {
  description = "Memory of a worker, in GiB; files that it writes count."
  type        = number
  default     = 32
  validation {
    condition     = var.worker_gpu == "nvidia-l4" ? var.worker_memory_gib >= 16 && var.worker_memory_gib <= 32 : var.worker_memory_gib >= 80
    error_message = "An L4 goes with 16 to 32 GiB, an RTX PRO 6000 with 80 or more."
  }
  validation {
    condition     = var.worker_gpu != "nvidia-l4" || var.worker_memory_gib <= lookup({ 4 = 16, 6 = 24 }, var.worker_cpu, 32)
    error_message = "Cloud Run gives 4 vCPUs at most 16 GiB, 6 at most 24, 8 at most 32: change worker_cpu as well."
  }
}

variable "worker_min_instances" {
  description = "Workers that are kept awake, and paid for, all day; 0 lets the last one go."
  type        = number
  default     = 0
  validation {
    condition     = var.worker_min_instances >= 0 && var.worker_min_instances <= var.worker_max_instances
    error_message = "From 0 to worker_max_instances."
  }
}

variable "worker_max_instances" {
  description = "The most workers at once: this bounds the bill."
  type        = number
  default     = 1
  validation {
    condition     = var.worker_max_instances >= 1 && var.worker_max_instances <= 8
    error_message = "From 1 to 8; a project's first GPU quota is about 3."
  }
}

variable "worker_concurrency" {
  description = "Pushes that one worker holds. 4 for one worker, whose desk puts them in order; 1 for several, since a refused push makes Cloud Run start the next one."
  type        = number
  default     = 4
  validation {
    condition     = var.worker_concurrency >= 1 && var.worker_concurrency <= 8
    error_message = "From 1 to 8: each takes a thread, and waits for the desk."
  }
}

variable "worker_startup_seconds" {
  description = "How long a worker may take until /readyz answers. Google's guide allows 1,800 with a GPU, its reference 240."
  type        = number
  default     = 240
  validation {
    condition     = var.worker_startup_seconds >= 60 && var.worker_startup_seconds <= 1800
    error_message = "From 60 to 1800 seconds."
  }
}

variable "worker_request_seconds" {
  description = "How long Cloud Run lets one push last; above the ack deadline, so that it never cuts what Pub/Sub still holds."
  type        = number
  default     = 1800
  validation {
    condition     = var.worker_request_seconds >= 900 && var.worker_request_seconds <= 3600
    error_message = "From 900 to 3600 seconds."
  }
}

# --- the API --------------------------------------------------------------------------------------

variable "api_cpu" {
  description = "vCPUs of an API instance."
  type        = number
  default     = 1
  validation {
    condition     = contains([1, 2, 4], var.api_cpu)
    error_message = "1, 2 or 4."
  }
}

variable "api_memory_mib" {
  description = "Memory of an API instance, in MiB; an upload of a large picture takes some hundred."
  type        = number
  default     = 1024
  validation {
    condition     = var.api_memory_mib >= 512 && var.api_memory_mib <= 8192
    error_message = "From 512 to 8192 MiB."
  }
  validation {
    condition     = var.api_memory_mib <= (var.api_cpu == 1 ? 4096 : 8192) && var.api_memory_mib >= (var.api_cpu == 4 ? 2048 : 512)
    error_message = "Cloud Run gives 1 vCPU at most 4096 MiB, 2 at most 8192, and 4 at least 2048: change api_cpu as well."
  }
}

variable "api_min_instances" {
  description = "API instances that are kept awake; 0 costs the first caller after a pause about two seconds."
  type        = number
  default     = 0
  validation {
    condition     = var.api_min_instances >= 0 && var.api_min_instances <= var.api_max_instances
    error_message = "From 0 to api_max_instances."
  }
}

variable "api_max_instances" {
  description = "The most API instances at once."
  type        = number
  default     = 4
  validation {
    condition     = var.api_max_instances >= 1 && var.api_max_instances <= 100
    error_message = "From 1 to 100."
  }
}

variable "api_concurrency" {
  description = "Requests that one API instance answers at once; half of them may be long polls."
  type        = number
  default     = 32
  validation {
    condition     = var.api_concurrency >= 4 && var.api_concurrency <= 256
    error_message = "From 4 to 256: each takes a thread."
  }
}

# --- what is kept, and how much is drawn ----------------------------------------------------------

variable "retention_days" {
  description = "How long ended jobs, their images and unused uploads are kept."
  type        = number
  default     = 30
  validation {
    condition     = var.retention_days >= 2
    error_message = "2 days or more."
  }
}

variable "results_days" {
  description = "Delete every image and upload after so many days, also what a batch still shows; null: never by age."
  type        = number
  default     = null
  validation {
    condition     = var.results_days == null ? true : var.results_days >= var.retention_days + 7
    error_message = "A week more than retention_days at least: until then the service itself decides."
  }
}

variable "max_queued_hours" {
  description = "The longest a job may wait."
  type        = number
  default     = 24
  validation {
    condition     = var.max_queued_hours >= 1 && var.max_queued_hours <= 168
    error_message = "From 1 to 168 hours."
  }
}

variable "gpu_seconds_per_day" {
  description = "Drawing seconds a day; then claiming pauses to midnight UTC."
  type        = number
  default     = 28800
  validation {
    condition     = var.gpu_seconds_per_day > 0
    error_message = "More than nothing."
  }
}

# --- who is told, and who deploys -----------------------------------------------------------------

variable "alert_emails" {
  description = "Who is written to by alarms and by the budget."
  type        = set(string)
  default     = []
  validation {
    condition     = alltrue([for email in var.alert_emails : can(regex("^[^@ ]+@[^@ ]+$", email))])
    error_message = "Each is an email address."
  }
}

variable "longest_wait_seconds" {
  description = "When the oldest waiting job is older than this, there is an alarm."
  type        = number
  default     = 1800
  validation {
    condition     = var.longest_wait_seconds >= 300
    error_message = "300 seconds or more: a cold start alone may take four minutes."
  }
}

variable "github_repository" {
  description = "The repository, OWNER/NAME, whose main branch may push images and deploy; null: none may."
  type        = string
  default     = null
  validation {
    condition     = var.github_repository == null || can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.github_repository))
    error_message = "OWNER/NAME, as GitHub spells it."
  }
}
